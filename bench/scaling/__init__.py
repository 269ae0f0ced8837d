"""How the autoscaler follows curves of arrivals: a simulation with chance, and no real server."""
