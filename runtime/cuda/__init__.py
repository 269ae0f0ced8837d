"""What only a GPU needs: its providers, its memory, sampling inside the graph, and captured decode steps."""
