"""params.yaml as strict, frozen models; one module has the models that a stage reads together.

Every key must be known, of the right type and in range; an error is one line that names its path in the file, the value and
what is allowed. Nothing here has a default, so every value that a run uses is in the file, where DVC tracks it.
"""
