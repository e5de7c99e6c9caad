"""Tables, figures and pages made from evaluations; the only code that imports pandas and matplotlib."""
