"""Many runs from one file: planned, checked, started, resumed, watched."""
