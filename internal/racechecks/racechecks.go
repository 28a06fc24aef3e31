// Package racechecks lets properties run less often with the race detector, which makes each run ten times slower. Most
// properties use one goroutine. `make storms` runs them thousands of times without it. Import it in a test of the
// package with the properties.
package racechecks
