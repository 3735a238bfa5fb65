"""The pages, one module each with one `page()`; `app.main` names them."""
