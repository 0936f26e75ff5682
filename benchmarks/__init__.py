"""The closed-loop world and the commands that measure popsteer against peers."""
