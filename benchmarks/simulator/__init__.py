"""The closed-loop world: users, caches, queues and measurements around the production planner."""
