//! Pure function from the object graph to network intent, with an incremental form.
