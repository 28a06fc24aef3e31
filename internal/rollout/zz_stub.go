package rollout

import (
	"context"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

type Consumer struct {
	Namespace, Secret, Stamp string
	Spec                     v1alpha1.RolloutSpec
}
type Progress struct {
	Done    bool
	Reason  string
	Waiting []string
	Stamped int
}
type Rollouts struct {
	Reader client.Reader
	Writer client.Client
}

func (r *Rollouts) Follow(ctx context.Context, c Consumer, at time.Time, others []Consumer, hold bool) (Progress, error) {
	return Progress{Done: true}, nil
}
