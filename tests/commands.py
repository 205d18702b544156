"""Checks of what a command printed."""


def refused(outcome, message):
    """Exit code 1, nothing on standard output, one line with the message on standard error."""
    code, out, err = outcome
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1, err
    assert err.startswith("lqcompile: error: ")
    assert message in err
