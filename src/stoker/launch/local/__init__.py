"""`--engine local`: the same verbs without containers, on an environment that uv makes from stoker.lock."""
