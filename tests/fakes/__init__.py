"""Stand-ins for hardware and programs that the machine under test does not have."""
