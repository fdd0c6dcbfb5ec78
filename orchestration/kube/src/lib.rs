//! Kubernetes manager.
