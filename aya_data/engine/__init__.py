"""From a spec to a release: the plan, its execution, mixture, split and shards."""
