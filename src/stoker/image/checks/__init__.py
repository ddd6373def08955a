"""What is looked at in a finished image, and what is wrong with it: facts are gathered first, then judged."""
