//! The `ChatSession` resource: its spec, its status and the values in them. Nothing here talks to anything.
