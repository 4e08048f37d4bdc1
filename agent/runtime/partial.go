package runtime

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fetched are the parts of an image that a pull has requested.
type fetched struct {
	began time.Time

	mu    sync.Mutex
	parts []ocispec.Descriptor
}

// note returns a handler that records each part before it is fetched.
func (f *fetched) note() images.HandlerFunc {
	return func(_ context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.parts = append(f.parts, desc)
		return nil, nil
	}
}

// discardPartial removes incomplete parts. The next pull would continue them, and if their content was wrong, or the registry does not
// support that, every pull would fail. It says whether an incomplete part was there before this pull. Parts that another pull is fetching
// at the moment stay.
func (r *Runtime) discardPartial(ctx context.Context, f *fetched) (resumed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	store := r.client.ContentStore()
	for _, part := range f.parts {
		ref := remotes.MakeRefKey(ctx, part)
		status, err := store.Status(ctx, ref)
		if err != nil {
			continue // it is complete, or missing
		}
		writer, err := store.Writer(ctx, content.WithRef(ref), content.WithDescriptor(part)) // fails while another writes it
		if err != nil {
			continue
		}
		// The writer keeps others out, and is closed last: containerd closes it some time after the call, and writes beside the
		// content then.
		err = store.Abort(ctx, ref)
		if err := writer.Close(); err != nil {
			slog.Warn("writer of a partly pulled image layer not closed", "ref", ref, "err", err)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			slog.Warn("partly pulled image layer not removed: the next pull of it may fail", "ref", ref, "err", err)
			continue
		}
		resumed = resumed || status.StartedAt.Before(f.began)
	}
	return resumed
}
