"""Fisher Decorator: flow behaviour policies refined under a Fisher trust region."""
