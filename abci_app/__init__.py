"""The Edgistry node: ABCI application, queues, HTTP API, engine supervisor."""
