package lifecycle

import _ "github.com/leasekeeper/leasekeeper/internal/racechecks" // fewer runs with the race detector
