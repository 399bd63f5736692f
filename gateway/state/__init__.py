"""What replicas of a gateway (and the workers of each) know together: open circuits, retry budgets, the limits of keys.

Each decides by its own state, always; five times a second it exchanges what has changed for what the others have done.
So nothing of it is in a request's way, and without Redis everything goes on.
"""
