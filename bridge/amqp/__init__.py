"""AMQP 0-9-1, and the only place that knows pika."""
