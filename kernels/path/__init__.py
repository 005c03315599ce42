"""The hidden path of an SDE cost: its network, its solvers, the spline through the states."""
