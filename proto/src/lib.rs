//! gRPC contracts between controllers, agents and operators.
