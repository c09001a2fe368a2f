"""Speed of an artifact beside other graphs and runtimes: compared first, then timed in turn."""
