"""The console command `fidec`: everything that a user does besides running stages. It may import every package; no package imports it."""
