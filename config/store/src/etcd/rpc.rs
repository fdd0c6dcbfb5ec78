//! What the compiler made of `etcd.proto`, and short ways to write requests.
#![allow(missing_docs, unreachable_pub, clippy::all)] // generated

tonic::include_proto!("etcdserverpb");
