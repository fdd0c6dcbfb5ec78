//! Typed asynchronous client of the configuration API: CRUD, list and watch.
