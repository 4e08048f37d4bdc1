package chaos

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// follower keeps a watch, resumed after its last event wherever it ended.
type follower struct {
	// relist returns the revision to begin at: at first, and after the server has said that the watch cannot be resumed.
	relist func(context.Context) (string, error)
	watch  func(context.Context, metav1.ListOptions) (watch.Interface, error)
	see    func(deleted bool, object metav1.Object, all any)
}

// silence is how long a watch may be without an event or a bookmark before it is begun again: the server may be cut off.
const silence = 8 * time.Second

func (f *follower) run(ctx context.Context) {
	revision := ""
	for ; ctx.Err() == nil; sleep(ctx, 100*time.Millisecond) {
		if revision == "" {
			asking, cancel := context.WithTimeout(ctx, answerWithin)
			from, err := f.relist(asking)
			cancel()
			if err != nil {
				continue
			}
			revision = from
		}
		revision = f.once(ctx, revision)
	}
}

// once watches from a revision, and returns that to go on from, or "" after a gap.
func (f *follower) once(ctx context.Context, revision string) string {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := time.AfterFunc(silence, cancel)
	defer quiet.Stop()
	events, err := f.watch(ctx, metav1.ListOptions{ResourceVersion: revision, AllowWatchBookmarks: true})
	if err != nil {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return ""
		}
		return revision
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		quiet.Reset(silence)
		if event.Type == watch.Error {
			if err := apierrors.FromObject(event.Object); apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
				return ""
			}
			return revision
		}
		object, err := meta.Accessor(event.Object)
		if err != nil {
			return revision
		}
		if event.Type != watch.Bookmark {
			f.see(event.Type == watch.Deleted, object, event.Object)
		}
		revision = object.GetResourceVersion()
	}
	return revision
}
