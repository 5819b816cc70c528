"""What is served, one module a service: requests in, answers or tickets out. Knows messages, never the transport."""
