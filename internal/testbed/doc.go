// Package testbed starts real servers for tests, benchmarks and the demo: a
// Kubernetes control plane, nodes without a container, Vault, PostgreSQL, and a
// proxy that breaks connections on demand.
//
// Everything listens on 127.0.0.1 only, on ports that two testbeds at once do
// not share, keeps its files in a temporary folder, and dies with this process
// even when that is killed with SIGKILL. The last needs Linux.
//
// The context of a Start function bounds the start, not the server's life:
// that ends with Stop.
package testbed
