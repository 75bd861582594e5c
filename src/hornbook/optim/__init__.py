"""Which parameter is updated how, and how the learning rate moves."""
