"""Journal text → claims → verdicts: what the text asserts about the model's layers, in a form that can be tested."""
