"""The errors meant for people: each names the thing, says what is wrong with it, and gives the way out.

The command line prints the message alone and exits with `exit_code`; anything else that is raised is a defect of ours.
"""


class LabError(Exception):
    """Bad usage, configuration or input."""

    exit_code = 2
