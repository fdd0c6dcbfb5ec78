//! Sessions to the vRouter agents: compiler and routing tables behind gRPC.
