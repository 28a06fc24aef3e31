package lease

import _ "github.com/leasekeeper/leasekeeper/internal/racechecks" // fewer runs with the race detector
