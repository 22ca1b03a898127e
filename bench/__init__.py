"""What Gnomon does in a second, and what that costs, beside references and peers in the same run: scripts/bench."""
