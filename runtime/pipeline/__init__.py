"""The loop: sources, engine, inspection and sinks, joined by short queues."""
