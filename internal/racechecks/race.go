//go:build race

package racechecks

import (
	"flag"

	_ "pgregory.net/rapid" // defines the flag
)

func init() {
	if err := flag.Set("rapid.checks", "15"); err != nil {
		panic(err)
	}
}
