"""Cluster Manager: starts, stops, watches and heals model servers, and places deployments on them."""
