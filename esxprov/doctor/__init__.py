"""`esxprov doctor`: looks at everything the service needs, and says what to do where something is wrong."""
