"""Which parameter is updated how."""
