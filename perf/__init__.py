"""What a user runs against a running appliance: load over HTTP and on Triton, capacity, reports of them."""
