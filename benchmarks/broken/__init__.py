"""Broken environments, made for real in a temporary folder, and the rule by which a tool's words about them are judged."""
