"""What is true before torch is imported: settings, shapes, metrics, hardware. Each fact once."""
