//! The VNC REST server: CRUD, references, allocation, watch.
