"""params.yaml as strict, frozen models, one module for those that a stage reads together.

Every key must be known, of the right type and in range; a violation is one line that names its path in the file, the value and
what is allowed. Nothing here has a default: the file is the whole truth, so that what DVC tracks is what runs.
"""
