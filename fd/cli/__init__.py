"""The console command `fidec`: what a user does beside running stages. It may import everything, nothing imports it."""
