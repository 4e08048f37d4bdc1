package reach

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/backoff"
)

// reportLimit is how long one report is tried: a later one has newer statements.
const reportLimit = 5 * time.Second

// reporter sends statements to the API server: of each witness about each subject the last one. Without an API server, or with one that
// does not take them, nothing depends on it.
type reporter struct {
	client kubernetes.Interface
	self   string
	wake   chan struct{}

	mu    sync.Mutex
	items map[pair]skepv1.Statement
}

func newReporter(client kubernetes.Interface, self string) *reporter {
	return &reporter{client: client, self: self, wake: make(chan struct{}, 1), items: map[pair]skepv1.Statement{}}
}

func (r *reporter) report(statements []skepv1.Statement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range statements {
		r.items[pair{s.Witness, s.Subject}] = s
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reporter) take() (statements []skepv1.Statement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.items {
		statements = append(statements, s)
	}
	clear(r.items)
	return statements
}

func (r *reporter) run(ctx context.Context) error {
	try := backoff.Retry{
		First: 100 * time.Millisecond, Last: time.Second,
		Failing: "statements about nodes that cannot be reached not sent to the API server; trying again", Working: "statements about nodes that cannot be reached sent to the API server again",
		Final: func(err error) bool {
			return apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
		},
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
		body, err := json.Marshal(r.take())
		if err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, reportLimit)
		_ = try.Do(limited, func(ctx context.Context) error { // logged; the next one has what is current then
			return r.client.CoreV1().RESTClient().Post().AbsPath(skepv1.PathStatements(r.self)).
				SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Error()
		})
		cancel()
	}
}
