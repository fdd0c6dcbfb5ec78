//! The VNC data model: generated types and metadata, and the object graph. No I/O.
