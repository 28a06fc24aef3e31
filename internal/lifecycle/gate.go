package lifecycle

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// retryWrite is when to try again in a namespace whose limit is reached.
const retryWrite = time.Second

// writing writes the Secret of the object. An admission webhook may take half a minute for each write in a namespace.
// So these writes are limited like the requests to one path of a backend.
func (l *Lifecycle) writing(o *observation, write func() error) error {
	return l.gated("write_secret", o.d.Namespace, write)
}

// gated limits requests to the API server that concern one namespace.
func (l *Lifecycle) gated(operation, namespace string, do func() error) error {
	done, err := l.limits.AdmitTo(operation, namespace)
	if err != nil {
		return busyError{retryWrite}
	}
	err = do()
	done(verdictOf(err))
	return err
}

// verdictOf classifies an error of the API server for the limits of a namespace. An error that it reports after a long
// time counts as no response: a webhook did not respond to it.
func verdictOf(err error) error {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return nil
	case errors.As(err, &status):
		return backend.Errorf(backend.Failed, "the API server reports an error")
	case errors.Is(err, context.DeadlineExceeded):
		return backend.Errorf(backend.NoResponse, "the API server does not respond")
	}
	return backend.ErrNotSent // the API server cannot be reached, whatever the namespace is
}
