package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// LoadImage uploads an image archive to hosts through the API, in parallel. open is
// called once per host. loaded, if not nil, is called for each host that has the
// image, perhaps from several goroutines at once.
func LoadImage(ctx context.Context, client kubernetes.Interface, nodes []string, open func() (io.ReadCloser, error), loaded func(node string)) error {
	errs := make([]error, len(nodes))
	var group sync.WaitGroup
	for i, node := range nodes {
		group.Go(func() {
			if err := loadImage(ctx, client, node, open); err != nil {
				errs[i] = fmt.Errorf("%s: %w", node, err)
			} else if loaded != nil {
				loaded(node)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func loadImage(ctx context.Context, client kubernetes.Interface, node string, open func() (io.ReadCloser, error)) error {
	archive, err := open()
	if err != nil {
		return err
	}
	defer archive.Close()
	// NoRetries: the archive is a stream, a second try would send its rest.
	result := client.CoreV1().RESTClient().Post().MaxRetries(0).
		Resource("nodes").Name(node).SubResource("proxy").Suffix("images/load").
		SetHeader("Content-Type", "application/x-tar").
		Body(io.Reader(archive)).Do(ctx)
	return agentsWords(result.Error())
}

// agentsWords returns an agent's message from an error: the agent answers in plain text, for which client-go's error only has
// the meaning of the status code.
func agentsWords(err error) error {
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) || answer.Status().Details == nil {
		return err
	}
	for _, cause := range answer.Status().Details.Causes {
		if cause.Type == metav1.CauseTypeUnexpectedServerResponse {
			return errors.New(cause.Message)
		}
	}
	return err
}
