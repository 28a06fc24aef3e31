// Package testbed starts real servers for tests, benchmarks and the demo: a Kubernetes control plane, simulated nodes,
// Vault, PostgreSQL, and a proxy that injects faults.
//
// All servers listen on 127.0.0.1, on ports that are not shared with other testbeds. They keep their files in a
// temporary directory and are killed with this process, even by SIGKILL. The last point requires Linux.
//
// The context of a Start function bounds only the start. The server runs until Stop or Close.
package testbed
