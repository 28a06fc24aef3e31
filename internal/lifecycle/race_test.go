//go:build race

package lifecycle

import (
	"flag"

	_ "pgregory.net/rapid" // defines the flag
)

// The race detector makes these properties ten times slower, and they mostly use one goroutine. `make storms` runs them
// thousands of times without it.
func init() {
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
}
